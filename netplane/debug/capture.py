"""One request, seen as packets: scapy builds and dissects them, the kernel only carries them.

Entry for the command line and the demo:

    view = await capture.request_view(
        "default/web-0", "svc/hello:80",
        client=client,                 # netplane.kube.client.Client, opened
        spawn=spawn,                   # places.Spawn: runs argv on a node
        path="/", seconds=10.0,        # the whole view never takes longer than `seconds`
    )
    view.render()    -> str: who talked to whom, flags, HTTP status, which pod answered
    view.as_json()   -> dict
    view.exit_code   -> 0 answered, 1 no answer or refused, 2 undetermined
"""
