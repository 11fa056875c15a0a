"""What each command takes; parsed before anything but the standard library is loaded."""
