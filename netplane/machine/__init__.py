"""Makes this machine a part of a cluster, and takes that back.

It writes settings, certificates and kubeconfigs under one root, and it knows what every part leaves in the
kernel, because somebody must be able to remove it when no part runs any more.
"""
