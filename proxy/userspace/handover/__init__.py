"""A worker whose proxy has gone holds its flows, and gives them to a worker of the next proxy.

Why a holder: a supervisor starts the next process when the last one has ended, and that takes most of a
second in which no byte may wait. So the worker goes on relaying with nothing but the epoll set, until a
successor asks for the flows at a unix socket, or none is left, or time is up.

Why this is safe: between two events a flow is descriptors and flags, and nothing of it is in user space. Two processes
that relay one flow would corrupt it, and where none does it stands still; so one word decides who does, the ``+`` of
the successor.

The laws:
1. The holder watches no flow of a batch from before it sends it.
2. The successor reads a batch whole, then says ``+``, and watches its flows only where the kernel has taken the word.
   Where that fails it closes its copies, which tells the flows' peers nothing, and may ask again.
3. The holder takes a batch back only where the word can come no more: it shuts its end for reading, from when on the
   kernel refuses the word (EPIPE), and then reads what was said before.
4. A process that is killed in between cannot know, and nor can the one that follows it. So both mark the time from
   sending, or receiving, until all is decided in their ledgers, and hold flows of the batch as nobody's meanwhile: what
   is found so is ended by RST for both (``recovery``), a batch at most.
"""
