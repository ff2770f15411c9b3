"""One codec for all that Partita reads and writes: text to plain data, plain data to checked values, and back.

`text` reads JSON, YAML and TOML, and writes JSON; `yaml_text` is its YAML 1.2. `codec` makes values of plain data and
tells all that is wrong with them at once.
"""
