"""What a client asks of a running container: log, exec, attach, port-forward. The pod's node agent answers; what it
says is passed on as it comes.
"""
