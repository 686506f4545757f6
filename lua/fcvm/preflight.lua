-- SPDX-License-Identifier: Apache-2.0
--- What fcvm requires of a host, each requirement a line: what was found, whether it suffices, what mends it.
--
--     for _, check in ipairs(preflight.run { only = "kvm" }) do print(check.name, check.ok, check.found, check.fix) end
--
-- A check that cannot be met but that fcvm can do without is a "warning". docs/setup.md has the list.
local uv = require "luv"
local core = require "fcvm.core"
local cpio = require "fcvm.setup.cpio"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local machine = require "fcvm.machine"
local paths = require "fcvm.paths"
local task = require "fcvm.task"
local process = require "fcvm.process"
local workshop = require "fcvm.setup.workshop"

local M = {}

local BOOT_SECONDS = 15
local BOOT_MEMORY = 256 -- MiB
local KERNEL_LEAST = { 5, 10 }
local SPACE_SETUP, SPACE_RUN = 4 << 30, 1 << 30
local CONSOLE_MAX = 1 << 20
local CHAINS_MAX = 1 << 20 -- bytes of nft's list
local AGENT_MAX = 64 << 20
local SMALL = 64 << 10

local status = errors.status

local function read(context, path)
  local text = core.disk.read(context.root .. path, SMALL)
  return text and text:gsub("%s+$", "")
end

local function good(found) return { ok = true, found = found } end
local function warn(found, fix) return { ok = "warning", found = found, fix = fix } end
local function bad(found, fix, exit) return { ok = false, found = found, fix = fix, status = exit } end

-- Opens a device as a test. Returns nil, or the error's name.
local function cannot_open(path, flags)
  local fd, _, name = uv.fs_open(path, flags, 0)
  if not fd then return name end
  uv.fs_close(fd)
  return nil
end

local function mode_of(path)
  local stat = uv.fs_stat(path)
  return stat and ("%s, mode %04o, owner %d:%d"):format(path, stat.mode & 4095, stat.uid, stat.gid) or path .. " is missing"
end

-- A device that must be there and open for reading and writing.
local function device(context, path, missing, denied, exit)
  local full = context.root .. path
  local problem = cannot_open(full, "r+")
  if not problem then return good(mode_of(full)) end
  if problem == "ENOENT" then return bad(path .. " is missing", missing, exit) end
  if problem == "EACCES" or problem == "EPERM" then return bad(mode_of(full) .. ": " .. problem, denied, status.permission) end
  return bad(mode_of(full) .. ": " .. problem, missing, exit)
end

-- What a console line says of how far the guest came: true when its kernel has started a first process, or has tried to.
local function reached_init(line)
  if line:find "Kernel panic" then return line:find "[iI]nit" ~= nil or line:find "VFS: Unable to mount" ~= nil end
  if line:find "Run /init as init process" then return true end
  -- The kernel's own lines have its time before them, Firecracker's a date; what is left is the agent's.
  return not line:find "^%[%s*%d+%.%d+%]" and not line:find "^%d%d%d%d%-%d%d%-%d%dT" and line:find "%S" ~= nil
end
M.reached_init = reached_init

-- Reads a console: `wake` is called with the line that shows that the guest is up. Returns the sink, and a table with the
-- last line of the guest's and of Firecracker's.
local function console(wake)
  local rest, size, last = "", 0, {}
  return function(chunk)
    size = size + #chunk
    if size > CONSOLE_MAX then return end
    rest = rest .. chunk
    for line in rest:gmatch "([^\n]*)\n" do
      line = line:gsub("%c", "")
      if line ~= "" then last[line:find "^%d%d%d%d%-%d%d%-%d%dT" and "firecracker" or "guest"] = line end
      if reached_init(line) then wake(line) end
    end
    rest = rest:match "[^\n]*$"
  end, last
end

-- Writes what a guest that only says that it is up needs: the agent and nothing else, which ends at its first step with a
-- line. Without an agent, the kernel ends with a panic since it has no root, which says as much of KVM.
local function write_guest(directory, kernel)
  local agent = core.disk.read(paths.libexec "fc-agent", AGENT_MAX)
  if agent then
    errors.check(core.disk.write(directory .. "/initramfs", cpio.archive { { "dev", directory = true },
      { "dev/console", character = { 5, 1 } }, { "proc", directory = true }, { "sys", directory = true },
      { "init", mode = 493, data = agent } }, 384))
  end
  errors.check(core.disk.write(directory .. "/config.json", json.encode { ["boot-source"] = { kernel_image_path = kernel,
    initrd_path = agent and "initramfs" or nil, boot_args = "console=ttyS0 panic=-1 quiet " .. machine.arch().boot },
    drives = json.array(), ["machine-config"] = { vcpu_count = 1, mem_size_mib = BOOT_MEMORY } }, 384))
end

-- Boots a guest. Returns the line that shows that it is up, or nil and what was seen instead.
local function boot(context, firecracker, kernel)
  return task.scope(function()
    local directory = errors.check_uv("make directory", "/tmp", uv.fs_mkdtemp "/tmp/fcvm-preflight-XXXXXX")
    task.defer(function()
      uv.fs_unlink(directory .. "/config.json")
      uv.fs_unlink(directory .. "/initramfs")
      uv.fs_rmdir(directory)
    end)
    write_guest(directory, kernel)
    local up, ended, wake
    local sink, last = console(function(line)
      up = up or line
      if wake then wake() end
    end)
    task.spawn(function()
      local ok, result = pcall(workshop.run, { firecracker, "--no-api", "--config-file", "config.json",
        cwd = directory, on_stdout = sink, on_stderr = sink, check = false })
      ended = ok and ("Firecracker ended with %s"):format(result.signal and "signal " .. result.signal or
        "status " .. result.status) or tostring(result)
      if wake then wake() end
    end)
    local timer = uv.new_timer()
    local late
    if not up and not ended then
      task.await(function(resume)
        wake = resume
        timer:start(math.ceil(context.boot_seconds * 1000), 0, function()
          late = true
          resume()
        end)
        return function() timer:close() end
      end)
    end
    if not timer:is_closing() then timer:close() end
    if up then return up end
    -- What Firecracker said explains its end; where it goes on, it has said nothing of use.
    local words = last.guest or not late and last.firecracker
    local what = late and ("no guest came up within %g s"):format(context.boot_seconds) or ended
    return nil, words and ("%s; last seen: %s"):format(what, log.printable(words):sub(1, 200)) or what
  end)
end

local function part(name) return paths.data() .. "/" .. name end

local function boot_check(context)
  local firecracker, kernel = part "bin/firecracker", part "kernels/vmlinux"
  for _, path in ipairs { firecracker, kernel } do
    if not uv.fs_stat(path) then
      return bad("not tried, " .. path .. " is missing", "fcvm setup firecracker && fcvm setup kernel", status.missing_part)
    end
  end
  local problem = cannot_open(context.root .. "/dev/kvm", "r+")
  if problem then return bad("not tried, /dev/kvm: " .. problem, "see kvm.device", status.kvm) end
  local began = task.now()
  local line, why = (context.boot or boot)(context, firecracker, kernel)
  if line then return good(("a guest was up after %.1f s"):format(task.now() - began)) end
  return bad(why, "use a machine with hardware virtualization (nested, if it is a virtual one)", status.kvm)
end

local function kernel_check(context)
  local release = context.release or uv.os_uname().release
  local major, minor = release:match "^(%d+)%.(%d+)"
  major, minor = tonumber(major), tonumber(minor)
  if major and (major > KERNEL_LEAST[1] or major == KERNEL_LEAST[1] and minor >= KERNEL_LEAST[2]) then return good(release) end
  return bad(release, "boot a newer kernel", status.system)
end

local function architecture_check()
  local ok, arch = pcall(machine.arch)
  if ok then return good(arch.name) end
  return bad(uv.os_uname().machine, "use an x86_64 or aarch64 host", status.system)
end

local function userfaultfd_check(context)
  local path = context.root .. "/dev/userfaultfd"
  local sysctl = read(context, "/proc/sys/vm/unprivileged_userfaultfd")
  local found = ("%s; vm.unprivileged_userfaultfd=%s"):format(mode_of(path), sysctl or "none")
  local problem = cannot_open(path, "r+")
  if not problem or sysctl == "1" then
    -- That is what the files say; a seccomp filter or the kernel may see it otherwise.
    local able = context.probe()
    if able.userfaultfd then return good(found) end
    local err = able.userfaultfd_error
    return bad(("%s; trying it: %s"):format(found, err.message ~= "" and err.message or err.name), err.hint, status.system)
  end
  if sysctl == nil and problem == "ENOENT" then
    return bad(found, "boot a kernel with CONFIG_USERFAULTFD", status.system)
  end
  return bad(found, "sysctl -w vm.unprivileged_userfaultfd=1", problem == "ENOENT" and status.system or status.permission)
end

local function io_uring_check(context)
  local value = read(context, "/proc/sys/kernel/io_uring_disabled")
  -- Kernels before 6.6 have no such switch.
  local found = value and "kernel.io_uring_disabled=" .. value or "no kernel.io_uring_disabled: allowed"
  if value ~= nil and value ~= "0" and not (value == "1" and context.uid == 0) then
    return warn(found .. ": reads of snapshots are slower", "sysctl -w kernel.io_uring_disabled=0")
  end
  local able = context.probe()
  if able.io_uring then return good(found) end
  local err = able.io_uring_error
  return warn(("%s; trying it: %s: reads of snapshots are slower"):format(found, err.message ~= "" and err.message or err.name),
    err.hint)
end

-- The directory itself, or the nearest above it that exists.
local function existing(path)
  while path ~= "" and not uv.fs_stat(path) do path = path:match "^(.*)/[^/]*$" or "" end
  return path == "" and "/" or path
end

local function reflinks_check()
  local where = existing(paths.data())
  local able, err = core.disk.reflinks(where)
  if able then return good(where .. " shares blocks") end
  if able == nil then
    return bad(("%s: %s"):format(where, err.message or err.name), "choose another data directory: --data-dir DIR",
      status.cannot_create)
  end
  return warn(where .. " does not: disks are copied", "put the data directory on btrfs or xfs: --data-dir DIR")
end

local function space_check(context)
  local where = existing(paths.data())
  local needed = uv.fs_stat(part "rootfs/rootfs.ext4") and SPACE_RUN or SPACE_SETUP
  local stat = context.statfs and context.statfs(where) or uv.fs_statfs(where)
  if not stat then return bad(where .. ": unknown", "choose another data directory: --data-dir DIR", status.cannot_create) end
  local free = stat.bavail * stat.bsize
  local found = ("%.1f GiB free in %s"):format(free / (1 << 30), where)
  if free >= needed then return good(found) end
  return bad(("%s, of %d GiB"):format(found, needed >> 30), "free some, or choose another data directory: --data-dir DIR",
    status.cannot_create)
end

local function memory_check(context)
  local total = context.memory or uv.get_total_memory()
  local found = ("%d MiB"):format(math.floor(total) >> 20)
  if total >= 1 << 30 then return good(found) end
  return bad(found, "give this machine more memory", status.system)
end

local function find_tool(context, name)
  for directory in (context.path .. ":/usr/sbin:/sbin"):gmatch "[^:]+" do
    local path = directory .. "/" .. name
    if uv.fs_access(path, "X") then return path end
  end
end

local function nftables_check(context)
  if context.nftables then return context.nftables() end
  local handle, err = core.net.open()
  local tables
  if handle then
    tables, err = handle:tables()
    handle:close()
  end
  if tables then return good(("%d tables of fcvm's"):format(#tables)) end
  if err.name == "EPERM" and context.uid ~= 0 then return good "not seen without root; a user namespace's own are used" end
  if err.name == "EPERM" or err.name == "EACCES" then return bad(err.name, "run fcvm as root", status.permission) end
  return bad(err.message or err.name, "modprobe nf_tables", status.system)
end

-- The host's own rules: what one chain accepts another may still drop, and a chain whose policy is to drop (Docker's,
-- firewalld's) drops what goes to VMs unless it is told otherwise.
local function firewall_check(context)
  if context.uid ~= 0 then return good "not needed: nothing is forwarded by the host" end
  local chains = context.chains and context.chains()
  if not chains then
    if not find_tool(context, "nft") then return good "not looked at: there is no nft" end
    local listed = process.run { "nft", "--json", "list", "chains", check = false, timeout = 10 }
    if listed.status ~= 0 then return warn("nft: " .. listed.stderr:sub(1, 200), "look at the host's rules by hand") end
    chains = listed.stdout
  end
  local document, found = json.decode(chains, "nft's chains", CHAINS_MAX), {}
  for _, entry in ipairs(type(document) == "table" and document.nftables or {}) do
    local chain = type(entry) == "table" and entry.chain
    if type(chain) == "table" and chain.hook == "forward" and chain.policy == "drop" then
      found[#found + 1] = ("%s %s %s"):format(chain.family, chain.table, chain.name)
    end
  end
  if #found == 0 then return good "no chain drops by its policy what is forwarded" end
  local chain = found[1]
  return warn(table.concat(found, ", ") .. " drops by its policy what is forwarded: VMs are not reached, and reach nothing",
    ("nft insert rule %s iifname 'fcv*' accept && nft insert rule %s oifname 'fcv*' accept (with Docker: into DOCKER-USER)")
    :format(chain, chain))
end

-- What a VM's network is without root: a user namespace, and a program that leads out of it.
local function rootless_check(context)
  if context.uid == 0 then return good "not needed: root's VMs are bridged" end
  local program
  for _, name in ipairs { "slirp4netns", "pasta" } do program = find_tool(context, name) or program end
  if not program then
    return bad("neither pasta nor slirp4netns", "install the package passt, or slirp4netns", status.missing_part)
  end
  local made = context.namespace and context.namespace() or process.run { "unshare", "--user", "--net", "true", check = false,
    contain = false, timeout = 10 }
  if made.status == 0 then return good(program) end
  return bad("no user namespace: " .. made.stderr:gsub("%s+$", ""), "sysctl user.max_user_namespaces=10000, and where they are "
    .. "there kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0", status.permission)
end

local function cgroup_check(context)
  local found = read(context, "/sys/fs/cgroup/cgroup.controllers")
  if not found then
    return warn("no cgroup v2 at /sys/fs/cgroup: VMs run without limits", "boot with systemd.unified_cgroup_hierarchy=1")
  end
  local missing = {}
  for _, name in ipairs { "cpu", "memory", "pids" } do
    if not (" " .. found .. " "):find(" " .. name .. " ", 1, true) then missing[#missing + 1] = name end
  end
  if #missing == 0 then return good(found) end
  return warn(("%s: without %s"):format(found ~= "" and found or "none", table.concat(missing, ", ")),
    "boot without cgroup_disable, and with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1")
end

-- Programs, their Debian packages, and what they are for: "run" where VMs need them, "setup" where `fcvm setup` does, "maybe"
-- where there is another way.
local tools = {
  { "skopeo", "skopeo", "run" }, { "umoci", "umoci", "run" }, { "mksquashfs", "squashfs-tools", "run" },
  { "tar", "tar", "run" }, { "sha256sum", "coreutils", "run" }, { "zstd", "zstd", "maybe" },
  { "mmdebstrap", "mmdebstrap", "setup" }, { "mke2fs", "e2fsprogs", "setup" }, { "debugfs", "e2fsprogs", "setup" },
  { "e2fsck", "e2fsprogs", "setup" }, { "lz4", "lz4", "setup" }, { "depmod", "kmod", "setup" },
  { "dpkg-deb", "dpkg", "setup" }, { "apt-get", "apt", "setup" }, { "apt-cache", "apt", "setup" },
  { "curl", "curl", "maybe" }, { "pip3", "python3-pip", "maybe" }, { "python3", "python3", "maybe" },
}

local function set_up()
  return uv.fs_stat(part "bin/firecracker") and uv.fs_stat(part "kernels/vmlinux") and uv.fs_stat(part "rootfs/rootfs.ext4")
end

local function tool_check(tool)
  return function(context)
    local path = find_tool(context, tool[1])
    if path then return good(path) end
    local fix = "apt-get install -y " .. tool[2]
    if tool[3] == "maybe" or tool[3] == "setup" and set_up() then return warn("missing", fix) end
    return bad("missing", fix, status.missing_part)
  end
end

local function firecracker_check()
  local firecracker = require "fcvm.setup.firecracker"
  local pins = firecracker.pins[uv.os_uname().machine]
  local record = firecracker.verified(pins)
  if record then return good(record.version .. (record.unpinned and " (not pinned)" or ", verified")) end
  if uv.fs_stat(part "bin/firecracker") then
    return bad("not the binaries that setup verified", "fcvm setup firecracker", status.config)
  end
  return bad("missing", "fcvm setup firecracker", status.missing_part)
end

local function guest_kernel_check()
  local kernel = require "fcvm.setup.kernel"
  local record, current = kernel.verified(paths.libexec "fc-agent")
  if record and current then return good(record.release .. ", verified") end
  if record then return bad(record.release .. ", but its initramfs is of another agent", "fcvm setup kernel", status.config) end
  if uv.fs_stat(part "kernels/vmlinux") then return bad("not what setup verified", "fcvm setup kernel", status.config) end
  return bad("missing", "fcvm setup kernel", status.missing_part)
end

local function rootfs_check()
  local rootfs = require "fcvm.setup.rootfs"
  local record = rootfs.verified()
  if record then return good(("sha256 %s"):format(record.sha256)) end
  if uv.fs_stat(part "rootfs/rootfs.ext4") then return bad("not what setup made", "fcvm setup rootfs", status.config) end
  return bad("missing", "fcvm setup rootfs", status.missing_part)
end

-- In the order in which a reader wants them: what cannot be mended by a command first.
local checks = {
  { "architecture", "x86_64 or aarch64", architecture_check },
  { "kernel", ("Linux %d.%d"):format(KERNEL_LEAST[1], KERNEL_LEAST[2]), kernel_check },
  { "kvm.device", "/dev/kvm, readable and writable", function(context)
    return device(context, "/dev/kvm", "modprobe kvm_intel || modprobe kvm_amd", "usermod -aG kvm \"$USER\" (then log in anew)",
      status.kvm)
  end },
  { "kvm.boot", "a guest boots", boot_check },
  { "tun", "/dev/net/tun, readable and writable", function(context)
    return device(context, "/dev/net/tun", "modprobe tun", "run fcvm as root, or let users have it: chmod 0666 /dev/net/tun",
      status.system)
  end },
  { "userfaultfd", "/dev/userfaultfd, or vm.unprivileged_userfaultfd=1", userfaultfd_check },
  { "io_uring", "allowed, and it works", io_uring_check },
  { "nftables", "netlink answers", nftables_check },
  { "firewall", "no chain that drops what is forwarded", firewall_check },
  { "rootless", "root, or user namespaces and pasta or slirp4netns", rootless_check },
  { "cgroups", "cgroup v2 with cpu, memory and pids", cgroup_check },
  { "memory", "1 GiB", memory_check },
  { "space", "4 GiB for setup, 1 GiB after it", space_check },
  { "reflinks", "files share blocks", reflinks_check },
  { "setup.firecracker", "the pinned release", firecracker_check },
  { "setup.kernel", "vmlinux and initramfs", guest_kernel_check },
  { "setup.rootfs", "the root file system", rootfs_check },
}
for _, tool in ipairs(tools) do
  checks[#checks + 1] = { "tools." .. tool[1],
    tool[3] == "run" and "to run" or tool[3] == "setup" and "for setup" or "useful", tool_check(tool) }
end

local KNOWN = { only = "string", root = "string", path = "string", uid = "integer", release = "string", memory = "number",
  boot_seconds = "number", boot = "function", nftables = "function", statfs = "function",
  probe = "function", namespace = "function", chains = "function" }

--- Checks the host. `only` takes checks whose names begin with it ("kvm" for kvm.device and kvm.boot); an unknown one raises.
-- `boot_seconds` (15) is how long a guest may take to come up. For tests: root (before /dev, /proc and /sys), path, uid,
-- release, memory, boot, nftables, statfs, probe, namespace, chains. Returns a list of {name=, ok= (true, false, "warning"),
-- found=, needed=, fix=, status= (the exit status that a failure means)}. Waits, and so needs a task.
function M.run(options)
  options = errors.options("preflight", options or {}, KNOWN)
  local context = { root = options.root or "", path = options.path or os.getenv "PATH" or "", uid = options.uid or uv.getuid(),
    release = options.release, memory = options.memory, boot_seconds = options.boot_seconds or BOOT_SECONDS,
    boot = options.boot, nftables = options.nftables, statfs = options.statfs, probe = options.probe or core.uffd.probe,
    namespace = options.namespace, chains = options.chains }
  local list, names = {}, {}
  for _, check in ipairs(checks) do
    local name, needed, fn = check[1], check[2], check[3]
    names[#names + 1] = name
    if not options.only or name:sub(1, #options.only) == options.only then
      local result = fn(context)
      result.name, result.needed = name, needed
      list[#list + 1] = result
    end
  end
  if #list == 0 then
    local near = errors.nearest(options.only, names)
    errors.raise { op = "preflight", subject = options.only, name = "EINVAL", message = "there is no such check",
      hint = near and ("did you mean '%s'?"):format(near) or "fcvm setup preflight lists them" }
  end
  return list
end

--- The exit status of a list: 0 where nothing failed, else that of what failed, the hardest to mend first.
function M.exit_status(list)
  for _, wanted in ipairs { status.kvm, status.permission, status.system, status.cannot_create, status.config } do
    for _, check in ipairs(list) do
      if check.ok == false and check.status == wanted then return wanted end
    end
  end
  for _, check in ipairs(list) do
    if check.ok == false then return check.status or status.system end
  end
  return 0
end

local words = { [true] = "ok", [false] = "FAILED", warning = "warning" }

--- The list as a table for people; what mends a failure stands below it.
function M.render(list)
  local width = 0
  for _, check in ipairs(list) do width = math.max(width, #check.name) end
  local lines = {}
  for _, check in ipairs(list) do
    lines[#lines + 1] = ("%-7s  %-" .. width .. "s  %s"):format(words[check.ok], check.name, log.printable(check.found))
    if check.ok ~= true then
      lines[#lines + 1] = (" "):rep(9 + width + 2) .. ("needed: %s; mend: %s"):format(check.needed, check.fix)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return M
