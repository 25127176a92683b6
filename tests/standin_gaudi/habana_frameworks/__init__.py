"""The driver layer of Intel Gaudi, as a stand-in: see README.md beside this folder."""
