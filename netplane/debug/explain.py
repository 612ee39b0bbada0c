"""Why a connection goes where it goes: one line a hop, each from the kernel's own state.

Entry for the command line and the lab:

    explanation = await explain.run(
        "default/web-0", "svc/hello:80",
        client=client,                 # netplane.kube.client.Client, opened
        spawn=places.only_here("n1"),  # or the lab's way to run argv on a node: places.Spawn
        probe=False,                   # True: also sends one real request (needs a pod as SOURCE)
    )
    explanation.render()      -> str, the table for people
    explanation.as_json()     -> dict, for -o json | yaml
    explanation.exit_code     -> 0 works, 1 broken, 2 undetermined

SOURCE: ns/pod, node/name, address. TARGET: svc/name:port, svc/name.ns:port, ns/pod:port, node/name:port, address:port.
Raises NetplaneError when SOURCE or TARGET name nothing, or the API does not answer.
"""
