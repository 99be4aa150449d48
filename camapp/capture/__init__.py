"""Where frames come from: one file a device, and the thread that reads them."""
