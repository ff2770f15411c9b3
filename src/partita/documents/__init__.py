"""One codec for all that Partita reads and writes: text to plain data, plain data to checked values, and back.

`codec` makes values of plain data and tells all that is wrong with them at once; it imports little. `text` reads
files: YAML 1.2 and JSON.
"""
