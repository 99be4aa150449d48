"""The MQTT interface and Home Assistant discovery."""
