"""Holds the files that ship as data: the Grafana dashboard and the systemd units."""
