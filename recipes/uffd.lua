-- SPDX-License-Identifier: Apache-2.0
--- Serves a memory file to any Firecracker, page by page: `fcvm uffd serve --memory FILE --socket PATH`.
local fcvm = require "fcvm"

local args = fcvm.args({
  action = { "string", "serve, or index: find the zero pages and write --page-map", positional = 1 },
  memory = { "string", "the snapshot's memory file", metavar = "FILE" },
  socket = { "string", "serve: the Unix socket that Firecracker connects to", required = false, metavar = "PATH" },
  working_set = { "string", "serve: a recording to replay into each VM", required = false, metavar = "FILE" },
  record = { "string", "serve: record what the first VM touches", required = false, metavar = "FILE" },
  page_map = { "string", "which pages are zero", required = false, metavar = "FILE" },
  workers = { "integer", "serve: threads; by default one a CPU", required = false },
  around = { "integer", "serve: pages brought with a faulted one, 1 to 16", required = false },
  ratio = { "number", "serve: private memory is at most so many times what is touched", required = false, metavar = "R" },
  spin_us = { "integer", "serve: microseconds awake after a fault; 0: none", required = false },
  preload = { "boolean", "serve: read the working set before a VM comes" },
  once = { "boolean", "serve: end with the last VM" },
}, { report = false, description = "Serves a snapshot's memory file by userfaultfd. SIGTERM ends the VMs, then the server." })

local function wrong(message)
  fcvm.errors.raise { op = "uffd", name = "EINVAL", message = message, hint = "fcvm uffd --help" }
end

if args.action == "index" then
  if not args.page_map then wrong "--page-map says where the map goes" end
  fcvm.log.info("%d pages are zero", fcvm.pages.index(args.memory, args.page_map))
  return 0
elseif args.action ~= "serve" then
  wrong(("there is no '%s': serve or index"):format(args.action))
elseif not args.socket then
  wrong "--socket says where to serve"
end

fcvm.pages.serve { memory = args.memory, socket = args.socket, working_set = args.working_set, record = args.record,
  page_map = args.page_map, workers = args.workers, around = args.around, ratio = args.ratio, preload = args.preload,
  spin = args.spin_us and args.spin_us / 1e6, once = args.once,
  ready = function() print("serving " .. args.socket) io.stdout:flush() end }
