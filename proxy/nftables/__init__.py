"""The nftables data path: the kernel translates, from maps that are changed in place.

``names`` says what the table consists of, ``ruleset`` its rules as text, ``elements`` what is in its maps;
``datapath`` keeps the kernel true to a snapshot.
"""
