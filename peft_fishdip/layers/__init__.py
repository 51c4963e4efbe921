"""Modules and autograd functions that compute with effective weights."""
