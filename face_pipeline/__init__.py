"""The face swap: frames in, frames out.

This package will hold detector, geometry, swappers, blending and encoding. It parses no files, knows no
policy and imports nothing of `moderation`; `deployments` introduces the two. It is empty until the gated
transform is built, so that nothing can be swapped before the gate is there.
"""
