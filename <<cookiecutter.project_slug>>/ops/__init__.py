"""Operating the service: its neighbours' configuration, its checks, its backup."""
