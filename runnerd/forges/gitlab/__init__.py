"""The client of GitLab: projects polled and woken by webhooks, runners created and removed through the API."""
