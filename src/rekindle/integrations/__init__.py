"""rekindle under the training loops of others: one module for each library, imported by its name.

    from rekindle.integrations.lightning import Snapshots
    from rekindle.integrations.huggingface import protect
    from rekindle.integrations.accelerate import start

Law: the library's loop stays as it is; what is exact under it is said in docs/integrations.md, and no more is promised.
"""
