"""The commands of `augury`, grouped by what they are about."""
