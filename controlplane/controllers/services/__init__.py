"""Which endpoints a Service has, in EndpointSlices and in the older Endpoints."""
