"""The MQTT side: topics, payloads, and the embedded broker for the demo and the tests."""
