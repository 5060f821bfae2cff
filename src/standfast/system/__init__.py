"""All that differs by operating system: files, locks, forks, failpoints."""
