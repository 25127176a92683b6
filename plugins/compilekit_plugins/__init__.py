"""The steps that come with compilekit. They use only what a third party could use."""
