"""Who may speak to the API server, and what they may do: certificates, identities, a table of rights.

The cluster is its own certificate authority (`pki`). A client is who its certificate says (`authn`), may do
what the table for its groups allows (`authz`), and a new machine gets its certificates for a token (`join`).
"""
