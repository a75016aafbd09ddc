"""Everything that is wired and run: settings, HTTP, Ray Serve, the command line. The only importer of ray.

`serve_command` starts one machine, `app` builds the application for Ray, `wiring` makes parts from settings, `http_api` is
the surface, `cli` is `facegate`.
"""
