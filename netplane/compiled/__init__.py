"""Machine code in place of the modules that every connection and every pod goes through.

Why: between two system calls the interpreter is three times slower than in a loop, and the relay is nothing but
steps between system calls. The source stays ordinary Python, and runs as such wherever it was not compiled.

``modules`` is the list. ``build`` compiles it (mypyc, and a C compiler), ``loading`` puts the result in the place
of the sources that it was made of.
"""

from netplane.compiled.loading import put_in_place as put_in_place
from netplane.compiled.loading import why_interpreted as why_interpreted
