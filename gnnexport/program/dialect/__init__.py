"""The `gnn` dialect: message passing over CSR by destination, stable in input order.

Importing `gnnexport.program.dialect.ops` registers the ops with torch.

One structure serves them all. `rowptr` int64 [num_dst + 1] and `col` int64 [num_slots] list, for each
destination, its sources in the order in which the edges came; `perm` int64 [num_slots] maps a slot to
its edge. An edge tensor inside a raised Program is in slot order.
"""
