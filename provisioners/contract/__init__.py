"""The values that runnerd and a provisioner exchange.  Import them from :mod:`provisioners.base`, the public path."""
