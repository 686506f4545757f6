-- SPDX-License-Identifier: Apache-2.0
-- Many clones, and many restores, on real Firecracker: `make test-long`.
describe("#kvm #slow clones", function()
  local cli = require "spec.support.cli"
  local fcvm = require "fcvm"
  local task = require "fcvm.task"
  local vms = require "spec.support.vms"

  local tools = "oci:" .. cli.images .. "/tools"

  local function test(name, body) it(name, function() task.main(body) end) end

  after_each(function() task.main(vms.assert_nothing_left) end)

  teardown(function()
    task.main(function()
      for _, snapshot in ipairs((fcvm.snapshots())) do snapshot:remove() end
    end)
  end)

  local function page(vm) return vm:request({ path = "/index.html", timeout = 60 }) end

  local function run_base(tag, program)
    return fcvm.run { image = tools, name = tag, mem = "256M", cpu = 1, cmd = { "/bin/sh", "-c", program },
      health = { port = 80, path = "/index.html" } }:wait("healthy", { timeout = 200 })
  end

  test("of a VM that was snapshotted under network and disk traffic answer, twenty times", function()
    -- A writer to the disk, a downloader of its own pages, and connections from outside.
    local base = run_base("busy", "/bin/httpd -h / ; echo page > /index.html;"
      .. " dd if=/dev/urandom of=/big bs=1M count=4 2> /dev/null;"
      .. " (while :; do dd if=/dev/urandom of=/written bs=64k count=16 conv=notrunc 2> /dev/null; sync; done &);"
      .. " while :; do /bin/wget -q -O /dev/null http://127.0.0.1/big; done")
    local stop = false
    local traffic = fcvm.spawn(function()
      while not stop do
        local ok, err = pcall(base.request, base, { path = "/big", timeout = 60 })
        if not ok and err.cancelled then error(err, 0) end
        if not ok then task.sleep(0.05) end
      end
    end)
    for round = 1, 20 do
      local tag = "busy-" .. round % 2
      base:snapshot { tag = tag }
      task.scope(function()
        local clone = fcvm.snapshot(tag):clone({ name = "again" }):wait("healthy", { timeout = 120 })
        local reply = page(clone)
        assert.same({ 200, "page\n" }, { reply.status, reply.body }, "round " .. round)
        assert.equal(0, clone:exec({ "/bin/sh", "-c", "sync; test -s /written", timeout = 60 }).status, "round " .. round)
      end)
      assert.equal("page\n", page(base).body, "round " .. round)
    end
    stop = true
    traffic:join()
    base:stop()
  end)

  test("start a hundred at once, and all are healthy", function()
    local base = run_base("many", "/bin/httpd -f -h / -p 80 & echo page > /index.html; wait")
    local snapshot = base:snapshot { tag = "many" }
    base:stop()
    local server = snapshot:serve { memory = "uffd" }
    server:clone({ name = "many-first" }):wait("healthy", { timeout = 120 }):stop()
    local fleet = fcvm.parallel(100, function(i)
      return server:clone { name = "many-" .. i }:wait("healthy", { timeout = 1800 })
    end)
    local seen = {}
    for _, vm in ipairs(fleet) do
      assert.is_nil(seen[vm.address])
      seen[vm.address] = true
      assert.equal("page\n", page(vm).body)
    end
    assert.equal(100, server:state().clones)
    server:stop()
  end)
end)
