"""Running the network on a task: backends, sampling, voting, adaptation. Nothing in here prints."""
