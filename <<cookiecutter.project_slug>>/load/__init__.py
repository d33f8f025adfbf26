"""The service under load: people who do what people do, many at once, and whether the promises hold (`make load`).

`python -m load` runs in the project's environment: it starts the stack, starts locust, judges. What locust itself runs
(`locustfile`, `person`, `journeys`) runs in an environment of its own, because gevent changes how all of Python waits.
"""
