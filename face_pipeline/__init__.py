"""The face swap: frames in, frames out.

| module | holds |
| --- | --- |
| `faces` | a found face, and which of several is meant |
| `geometry` | similarity transforms, the canonical face space, pose from five points |
| `detector` | the port `Detector`, YuNet, and the weight-free fallback |
| `swapper` | the ports `Swapper` (aligned crops) and `Stage` (whole frames: swap, later lips and voice) |
| `classical` | a swapper without weights |
| `blending` | cutting crops out of frames and laying them back |
| `pipeline` | the whole render as one function |
| `tracks` | who is who from frame to frame, and points that do not tremble |
| `motion` | the render of a video: a window of frames, faces that are lost or turned covered |
| `label` | the visible label (its wording and letters are in `labels/`) |
| `encoding` | a frame as the bytes of a picture file |
| `movie` | frames and sound as segments of a video file, and the file |
| `errors` | why it could not be done |

This package parses no picture of anybody's, knows no policy and imports nothing of `moderation`; `deployments` introduces the two.
A frame is RGB uint8, height x width x 3. Points are (x, y) in pixels, with pixel centres at whole numbers.
"""
