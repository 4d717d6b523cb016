"""The code that is copied into an exported folder, and the folder's layout.

`configuration_shared_diff.py` and `modeling_shared_diff.py` stand alone: transformers loads them from the folder
(trust_remote_code), so they import nothing of this project.
"""
