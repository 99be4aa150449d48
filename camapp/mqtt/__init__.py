"""The MQTT face: predictions, state and commands of a device's cameras on a broker, where Home Assistant finds them."""
