"""AWS ECS on Fargate: what the environments are made of, what a release brings, and the scripts between."""
