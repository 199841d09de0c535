"""The router: ingress -> dedup -> log. It decides once what a record is, and when it takes effect."""
