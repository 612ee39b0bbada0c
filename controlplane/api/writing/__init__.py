"""Every verb that changes something: a draft, the rules, one commit, and again if somebody was faster."""
