-- SPDX-License-Identifier: Apache-2.0
--- Base64 (RFC 4648, section 4): bytes in JSON and in file names.
local M = {}

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- The padded text of `bytes`.
function M.encode(bytes)
  local out = {}
  for i = 1, #bytes, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    local word = a << 16 | (b or 0) << 8 | (c or 0)
    for j = 0, 3 do
      local at = (word >> (18 - 6 * j) & 63) + 1
      out[#out + 1] = (j == 2 and not b or j == 3 and not c) and "=" or DIGITS:sub(at, at)
    end
  end
  return table.concat(out)
end

return M
