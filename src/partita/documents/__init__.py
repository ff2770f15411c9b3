"""One codec for all that Partita reads and writes: text to plain data, plain data to checked values, and back.

`codec` makes values of plain data and tells all that is wrong with them at once. `json_text` reads and writes JSON,
and imports little, for workers' processes; `text` reads what users write, YAML 1.2 or JSON, and `toml` TOML.
"""
