from hypothesis import HealthCheck, settings

# On a busy machine drawing takes seconds; that says nothing about what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
