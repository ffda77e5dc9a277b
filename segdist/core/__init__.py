"""What all share: errors, the keys of a sweep, the values that flow, masks, storage, plug-ins, text for people."""
