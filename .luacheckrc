-- SPDX-License-Identifier: Apache-2.0
std = "lua54"
ignore = { "211/_.*", "212/_.*" }
max_line_length = 130
files["spec"] = { std = "+busted" }
