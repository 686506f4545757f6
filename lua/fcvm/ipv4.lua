-- SPDX-License-Identifier: Apache-2.0
--- IPv4 addresses as text.
local M = {}

--- Whether a text is an address, as "10.0.0.1".
function M.is_address(text)
  local bytes = { tostring(text):match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$" }
  for _, byte in ipairs(bytes) do
    if tonumber(byte) > 255 then return false end
  end
  return #bytes == 4
end

--- Whether an address is one of its host alone.
function M.is_loopback(address) return address:match "^127%." ~= nil end

return M
