"""What users and callers say while a release serves: the event log, histories, item changes."""
