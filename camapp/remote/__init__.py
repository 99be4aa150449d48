"""Interfaces that watch and control a run from elsewhere: web page, MQTT, Prometheus."""
