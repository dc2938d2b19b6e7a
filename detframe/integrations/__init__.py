"""What other programs need to work with a `Detector`, a file for each; none is imported by `import detframe`."""
