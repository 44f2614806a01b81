"""One worked example by hand: x1..x6, masked {2, 4, 5}, factorization order 4,5 -> 2.

Tokens x1..x6 are 11..16, [M] is 7, [P] is 8; positions count from 0; x1 x2 x3 are segment 0, x4 x5 x6 segment 1.
The last step's original, x2, has no slot.
"""

import numpy as np

M, P = 7, 8
TEXT = np.array([11, 12, 13, 14, 15, 16])
SEGMENTS_OF_TEXT = np.array([0, 0, 0, 1, 1, 1])
MASKED = np.array([3, 4, 1])  # places, counted from 0
STEPS_OF_MASKED = np.array([1, 1, 2])

NAMES = ["x1", "M2", "x3", "M4", "M5", "x6", "P4", "P5", "P2", "x4", "x5"]
TOKENS = [11, M, 13, M, M, 16, P, P, P, 14, 15]
POSITIONS = [0, 1, 2, 3, 4, 5, 3, 4, 1, 3, 4]
SEGMENTS = [0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1]
STEPS = [0, 0, 0, 0, 0, 0, -1, -1, -2, 1, 1]
QUERIES = [3, 4, 1, 6, 7, 8]
TARGETS = [14, 15, 12, 14, 15, 12]

# rows attend columns
#            x1 M2 x3 M4 M5 x6 P4 P5 P2 x4 x5
SEES = """
x1           1  1  1  1  1  1  0  0  0  0  0
M2           1  1  1  1  1  1  0  0  0  0  0
x3           1  1  1  1  1  1  0  0  0  0  0
M4           1  1  1  1  1  1  0  0  0  0  0
M5           1  1  1  1  1  1  0  0  0  0  0
x6           1  1  1  1  1  1  0  0  0  0  0
P4           1  1  1  1  1  1  1  1  0  0  0
P5           1  1  1  1  1  1  1  1  0  0  0
P2           1  1  1  1  1  1  0  0  1  1  1
x4           1  1  1  1  1  1  0  0  0  1  1
x5           1  1  1  1  1  1  0  0  0  1  1
"""
MASK = np.array([[int(x) for x in line.split()[1:]] for line in SEES.strip().splitlines()], dtype=bool)

# The same tokens as a pair: source x1 x2 x3, target x4 x5 x6. Slots: source, three [P], the target but its last token.
PAIR_NAMES = ["x1", "x2", "x3", "P4", "P5", "P6", "x4", "x5"]
PAIR_TOKENS = [11, 12, 13, P, P, P, 14, 15]
PAIR_POSITIONS = [0, 1, 2, 3, 4, 5, 3, 4]
PAIR_SEGMENTS = [0, 0, 0, 1, 1, 1, 1, 1]
PAIR_STEPS = [0, 0, 0, -1, -2, -3, 1, 2]
#            x1 x2 x3 P4 P5 P6 x4 x5
PAIR_SEES = """
x1           1  1  1  0  0  0  0  0
x2           1  1  1  0  0  0  0  0
x3           1  1  1  0  0  0  0  0
P4           1  1  1  1  0  0  0  0
P5           1  1  1  0  1  0  1  0
P6           1  1  1  0  0  1  1  1
x4           1  1  1  0  0  0  1  0
x5           1  1  1  0  0  0  1  1
"""
PAIR_MASK = np.array([[int(x) for x in line.split()[1:]] for line in PAIR_SEES.strip().splitlines()], dtype=bool)
