"""One codec for all that Partita reads and writes: text to plain data, plain data to checked values, and back.

`text` reads JSON, YAML and TOML, and writes JSON; `yaml_text` has its YAML 1.2. `codec` converts plain data to values
and reports all their faults at once.
"""
