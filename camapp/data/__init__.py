"""Files that ship as data: the Grafana dashboard and the systemd units."""
