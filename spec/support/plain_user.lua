-- SPDX-License-Identifier: Apache-2.0
--- What tests run as a plain user: `nobody`'s number with a home of its own, where they are root.
local M = { uid = 65534 }

--- The vector's words behind those that make them run as that user, with `home` as its home and for its sockets.
function M.words(home, words)
  local id = tostring(M.uid)
  local all = { "setpriv", "--reuid", id, "--regid", id, "--clear-groups", "env", "HOME=" .. home,
    "XDG_RUNTIME_DIR=" .. home .. "/run", "FCVM_DATA_DIR=" .. home .. "/data" }
  return table.move(words, 1, #words, #all + 1, all)
end

return M
