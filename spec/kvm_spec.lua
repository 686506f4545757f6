-- SPDX-License-Identifier: Apache-2.0
-- The main job on real Firecracker. Run where KVM is, by tests/on-kvm.
describe("#kvm", function()
  local cli = require "spec.support.cli"
  local fcvm = require "fcvm"
  local json = require "fcvm.json"
  local task = require "fcvm.task"
  local uv = require "luv"
  local vms = require "spec.support.vms"

  local web, tools = "oci:" .. cli.images .. "/web", "oci:" .. cli.images .. "/tools"

  local function test(name, body) it(name, function() task.main(body) end) end

  local records, left_of = vms.records, vms.left_of

  after_each(function() task.main(vms.assert_nothing_left) end)

  test("a web container is healthy, answers, is listed, runs commands, stops, and leaves nothing", function()
    local run = cli.start { "podman", "run", "--name", "web", "--cpu", "1", "--mem", "512M",
      "--health-check", "http://localhost:80/", web }
    cli.eventually("web to be healthy", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.health == "healthy"
    end, 200)
    local record = records()[1]
    assert.equal("running", record.status)

    local reply = fcvm.vm("web"):request { port = 80 }
    assert.equal(200, reply.status)
    assert.matches("hello from a container", reply.body)

    local rows = json.decode(cli.run { "ls", "--json" }.stdout).rows
    assert.equal(1, #rows)
    assert.equal("web", rows[1].name)
    assert.equal(record.pid, rows[1].pid)
    assert.matches("web", cli.run({ "ls", "--pid", record.pid }).stdout)
    assert.not_matches("web", cli.run({ "ls", "--pid", "1" }).stdout)

    local seen = json.decode(cli.run { "inspect", "web" }.stdout)
    assert.equal(record.vm_id, seen.vm_id)
    assert.is_true(seen.stats.memory.pss > 1 << 20)

    local exec = cli.run { "exec", "web", "/bin/sh", "-c", "echo out; echo err >&2; exit 7" }
    assert.same({ 7, "out\n", "err\n" }, { exec.status, exec.stdout, exec.stderr })
    local data = ("0123456789abcdef"):rep(65536)
    local cat = cli.run { "exec", "-i", "web", "/bin/cat", stdin = data }
    assert.equal(0, cat.status)
    assert.equal(data, cat.stdout)
    assert.equal(127, cli.run({ "exec", "web", "/no/such" }).status)

    local taken = cli.run { "run", "--name", "web", web }
    assert.equal(75, taken.status)
    assert.matches("name VM web", taken.stderr, 1, true)

    assert.equal(0, cli.run({ "stop", "web" }).status)
    run:wait()
    assert.same({}, left_of(record.vm_id))
  end)

  test("a container's output and status pass through untouched", function()
    local run = cli.run { "run", "--mem", "256M", "--cpu", "1", tools, "/bin/sh", "-c",
      "printf 'a\\0b\\n'; echo oops >&2; exit 42" }
    assert.equal(42, run.status)
    assert.equal("a\0b\n", run.stdout)
    assert.matches("oops\n", run.stderr, 1, true)
  end)

  test("a command that is not there is 127", function()
    local run = cli.run { "run", "--mem", "256M", "--cpu", "1", tools, "/no/such" }
    assert.equal(127, run.status)
    assert.matches("/no/such", run.stderr, 1, true)
  end)

  test("SIGTERM stops the container, and its status is the container's", function()
    local run = cli.start { "run", "--name", "sleeper", "--mem", "256M", "--cpu", "1", "--env", "SHARD=3", tools, "/bin/sh", "-c",
      "trap 'echo bye $SHARD; exit 5' TERM; echo ready; while :; do sleep 1; done" }
    cli.eventually("the container to be ready", function()
      assert(run.child:wait() == nil, run.stderr)
      return run.stdout:find "ready"
    end, 200)
    run:kill(15)
    assert.same({ status = 5 }, run:wait())
    cli.eventually("its last word", function() return run.stdout:find "bye 3" end, 5)
  end)

  test("a killed fcvm takes its Firecracker along, and the next command sweeps", function()
    local run = cli.start { "run", "--name", "victim", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("victim to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    local record = records()[1]
    local firecracker = require("fcvm.stats").firecracker_of(record.pid)
    assert.is_truthy(firecracker)
    uv.kill(record.pid, 9)
    run:wait()
    cli.eventually("Firecracker to end", function() return not uv.fs_stat("/proc/" .. firecracker) end, 10)
    -- As a loss of power may leave it: a directory without a record.
    local orphan = require("fcvm.paths").vm "vm-0123456789ab"
    require("fcvm.paths").ensure(orphan .. "/firecracker")
    assert.equal(0, cli.run({ "sweep" }).status)
    assert.same({}, left_of(record.vm_id))
    assert.is_nil(uv.fs_stat(orphan))
  end)

  test("a killed Firecracker is reported, and nothing is left", function()
    local run = cli.start { "run", "--name", "victim", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("victim to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    local record = records()[1]
    uv.kill(require("fcvm.stats").firecracker_of(record.pid), 9)
    assert.same({ status = 79 }, run:wait())
    assert.matches("was ended by signal 9", run.stderr)
    assert.same({}, left_of(record.vm_id))
  end)

  test("a guest that panics is reported as such", function()
    local run = cli.start { "run", "--name", "panic", "--mem", "256M", "--cpu", "1", tools, "/bin/sleep", "1000" }
    cli.eventually("it to run", function()
      assert(run.child:wait() == nil, run.stderr)
      local record = records()[1]
      return record and record.status == "running"
    end, 200)
    pcall(function()
      fcvm.vm("panic"):exec { "/bin/sh", "-c", "echo c > /proc/sysrq-trigger", vm = true, timeout = 20 }
    end)
    assert.same({ status = 79 }, run:wait())
    assert.matches("panic", run.stderr)
  end)

  test("two VMs have networks of their own, and reach neither each other nor the host", function()
    local both = fcvm.parallel({ "a", "b" }, function(name)
      return fcvm.run { image = tools, name = name, mem = "256M", cpu = 1,
        cmd = { "/bin/sh", "-c", "echo " .. name .. " > /index.html; exec /bin/httpd -f -h / -p 80" }, health = { port = 80 } }
    end)
    for _, vm in ipairs(both) do vm:wait("healthy", { timeout = 200 }) end
    local a, b = both[1], both[2]
    assert.are_not.equal(a.address, b.address)
    assert.equal("a\n", a:request({ path = "/index.html" }).body)
    assert.equal("b\n", b:request({ path = "/index.html" }).body)

    local server = uv.new_tcp()
    assert(server:bind("0.0.0.0", 8099))
    assert(server:listen(8, function()
      local peer = uv.new_tcp()
      server:accept(peer)
      peer:close()
    end))
    fcvm.defer(function() server:close() end)
    local host = a.address:gsub("%d+$", function(last) return ("%d"):format(tonumber(last) - 1) end)
    for _, target in ipairs { b.address .. " 80", host .. " 8099" } do
      local reach = a:exec { "/bin/sh", "-c", "nc -w 4 " .. target .. " < /dev/null", timeout = 30 }
      assert.not_equal(0, reach.status, target .. " was reached")
    end
    -- What must work for the test to mean anything: the guest's own network, and nc itself.
    assert.equal(0, a:exec({ "/bin/sh", "-c", "nc -w 4 127.0.0.1 80 < /dev/null", timeout = 30 }).status)
    for _, vm in ipairs(both) do vm:stop() end
  end)

  test("names are resolved by whom the host asks, also where only the host can, and as the user says", function()
    -- A resolver of this host's loopback, as systemd-resolved is one.
    local resolver = assert(fcvm.core.proc.spawn { argv = { "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
      "--no-hosts", "--no-resolv", "--user=root", "--pid-file=", "--listen-address=127.0.0.7", "--bind-interfaces",
      "--address=/one.example/10.9.8.7", "--local=/example/", "--txt-record=long.example," .. ("x"):rep(200) }, session = true })
    fcvm.defer(function() resolver:close() end)
    local vm = fcvm.run { image = tools, name = "names", mem = "256M", cpu = 1, cmd = { "/bin/sleep", "2000000" },
      dns = "127.0.0.7", dns_search = { "example" }, add_host = { "db:10.1.1.1", "db.internal:10.1.1.2" } }
    vm:wait("running", { timeout = 200 })
    local function guest(one, ...) return one:exec { vm = true, timeout = 60, ... }.stdout end
    assert.equal("nameserver 172.16.0.1\nsearch example\n", guest(vm, "cat", "/etc/resolv.conf"))
    assert.matches("^10.9.8.7 ", guest(vm, "getent", "ahostsv4", "one.example"))
    assert.matches("^10.9.8.7 ", guest(vm, "getent", "ahostsv4", "one"))
    assert.equal("", guest(vm, "getent", "ahostsv4", "two.example"))
    assert.matches("^10.1.1.1 ", guest(vm, "getent", "ahostsv4", "db"))
    local inside = vm:exec({ "/bin/cat", "/etc/hosts", "/etc/resolv.conf", timeout = 60 }).stdout
    assert.matches("10.1.1.2%s+db.internal", inside)
    assert.matches("nameserver 172.16.0.1", inside)
    assert.matches("search example", inside)

    -- A clone may ask another.
    local other = assert(fcvm.core.proc.spawn { argv = { "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
      "--no-hosts", "--no-resolv", "--user=root", "--pid-file=", "--listen-address=127.0.0.8", "--bind-interfaces",
      "--address=/one.example/10.9.8.8" }, session = true })
    fcvm.defer(function() other:close() end)
    local snapshot = vm:snapshot { tag = "names" }
    vm:stop()
    fcvm.defer(function() snapshot:remove() end)
    local clone = snapshot:clone { name = "names-1", dns = "127.0.0.8" }
    clone:wait("running", { timeout = 120 })
    assert.matches("^10.9.8.8 ", guest(clone, "getent", "ahostsv4", "one"))
    assert.matches("^10.1.1.1 ", guest(clone, "getent", "ahostsv4", "db"))
    clone:stop()
  end)

  test("a VM goes where its egress policy lets it, is counted elsewhere, and its clones inherit or have their own", function()
    local net = fcvm.core.net
    local far = fcvm.paths.ensure(fcvm.paths.run(), 493) .. "/egress-test"
    assert(net.namespace_create(far))
    fcvm.defer(function() assert(net.namespace_remove(far)) end)
    local here <close> = assert(net.open())
    local there <close> = assert(net.open(far))
    assert(here:link_add_veth("egress-test", "eth0", far))
    fcvm.defer(function()
      local again <close> = assert(net.open())
      assert(again:link_delete "egress-test")
    end)
    assert(here:address_add("egress-test", "10.99.1.1/24"))
    assert(here:link_set("egress-test", { up = true, ipv6 = false }))
    for _, address in ipairs { "10.99.1.2/24", "10.99.1.3/24" } do assert(there:address_add("eth0", address)) end
    assert(there:link_set("eth0", { up = true, ipv6 = false }))
    for _, address in ipairs { "10.99.1.2", "10.99.1.3" } do
      for _, port in ipairs { 80, 81 } do
        local server = uv.new_tcp()
        fcvm.defer(function() server:close() end)
        assert(server:open(assert(net.socket(far))))
        assert(server:bind(address, port))
        assert(server:listen(8, function()
          local peer = uv.new_tcp()
          server:accept(peer)
          peer:close()
        end))
      end
    end
    local resolver = assert(fcvm.core.proc.spawn { argv = { "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
      "--no-hosts", "--no-resolv", "--user=root", "--pid-file=", "--listen-address=127.0.0.7", "--bind-interfaces",
      "--address=/one.example/10.99.1.3", "--address=/two.example/10.99.1.3", "--local=/example/" }, session = true })
    fcvm.defer(function() resolver:close() end)

    local function reaches(vm, address, port)
      local began = fcvm.now()
      local done = vm:exec { "/bin/sh", "-c", ("nc -w 20 %s %d < /dev/null"):format(address, port), timeout = 60 }
      assert.is_true(fcvm.now() - began < 15, "it took " .. fcvm.now() - began)
      return done.status == 0
    end
    local function lookup(vm, name)
      return vm:exec({ "getent", "ahostsv4", name, vm = true, timeout = 60 }).stdout:match "^%S+"
    end

    local vm = fcvm.run { image = tools, name = "egress", mem = "256M", cpu = 1, dns = "127.0.0.7",
      egress = { "10.99.1.2:80/tcp", "one.example:80" }, cmd = { "/bin/httpd", "-f", "-p", "80" } }
    vm:wait("running", { timeout = 200 })
    assert.is_true(reaches(vm, "10.99.1.2", 80))
    assert.is_false(reaches(vm, "10.99.1.2", 81))
    assert.is_false(reaches(vm, "10.99.1.3", 80))
    assert.is_nil(lookup(vm, "two.example"))
    assert.equal("10.99.1.3", lookup(vm, "one.example"))
    assert.is_true(reaches(vm, "10.99.1.3", 80))
    assert.is_false(reaches(vm, "10.99.1.3", 81))
    -- Who comes to it is answered.
    assert.equal(404, vm:request({ path = "/none" }).status)
    local seen = json.decode(cli.run({ "inspect", "egress" }).stdout).egress
    assert.equal("10.99.1.2/32:80/tcp,one.example:80", seen.policy)
    assert.same({ 3, 0, 3 }, { seen.denied, seen.others, #seen.destinations })
    assert.same({ "10.99.1.2", "tcp", 81, 1 }, { seen.destinations[1].address, seen.destinations[1].protocol,
      seen.destinations[1].port, seen.destinations[1].packets })
    assert.equal("one.example", seen.destinations[2].name)

    local snapshot = vm:snapshot { tag = "egress" }
    vm:stop()
    fcvm.defer(function() snapshot:remove() end)
    local server <close> = snapshot:serve()
    local heir = server:clone { name = "egress-heir" }:wait("running", { timeout = 120 })
    assert.is_true(reaches(heir, "10.99.1.2", 80))
    assert.is_false(reaches(heir, "10.99.1.3", 80))
    assert.equal("one.example:80", heir:egress().policy:match ",(.*)")
    heir:stop()

    local closed = json.decode(cli.run({ "snapshot", "run", "--pid", tostring(server.pid), "--name", "egress-deny", "--egress",
      "deny", "--detach" }).stdout and cli.run({ "inspect", "egress-deny" }).stdout)
    assert.equal("deny", closed.egress.policy)
    local denied = fcvm.vm "egress-deny"
    assert.is_false(reaches(denied, "10.99.1.2", 80))
    assert.equal(404, denied:request({ path = "/none" }).status)
    assert.equal(1, denied:egress().denied)
    denied:stop()

    local heard = {}
    local decided = server:clone { name = "egress-ask", dns = "127.0.0.7", egress = function(to)
      heard[#heard + 1] = ("%s:%s"):format(to.name or to.resolver and "resolver" or to.address, to.port)
      return to.resolver or to.name == "one.example"
    end }:wait("running", { timeout = 120 })
    assert.equal("10.99.1.3", lookup(decided, "one.example"))
    assert.is_true(reaches(decided, "10.99.1.3", 80))
    assert.is_true(reaches(decided, "10.99.1.3", 80))
    assert.is_false(reaches(decided, "10.99.1.2", 80))
    assert.equal("resolver:53 one.example:80 10.99.1.2:80", table.concat(heard, " "))
    decided:stop()
  end)

  test("members of a named network reach each other by name, and nobody else does", function()
    local function run(name, network)
      return fcvm.run { image = tools, name = name, mem = "256M", cpu = 1, health = { port = 80 }, network = network,
        cmd = { "/bin/sh", "-c", ("echo %s > /index.html; exec /bin/httpd -f -h / -p 80"):format(name) } }
    end
    local members = fcvm.parallel({ { "db", "lab" }, { "out" } }, function(one)
      return run(one[1], one[2]):wait("healthy", { timeout = 300 })
    end)
    local snapshot = members[1]:snapshot { tag = "member" }
    fcvm.defer(function() snapshot:remove() end)
    -- A clone has a place of its own in the network, and keeps its guest's address.
    local clone = snapshot:clone { name = "web", network = { "lab", "more" } }
    clone:wait("healthy", { timeout = 120 })
    -- By the guest's own programs: the container's busybox is static, and resolves nothing.
    local function fetch(vm, host)
      return vm:exec({ "perl", "-MIO::Socket", "-e", '$s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 80, '
        .. 'Timeout => 10) or exit; print $s "GET /index.html HTTP/1.0\r\n\r\n"; print grep { $body ||= /^\r$/ } <$s>',
        host, vm = true, timeout = 60 }).stdout:match "^%s*(.-)$"
    end
    local function resolve(vm, name)
      return vm:exec({ "getent", "ahostsv4", name, vm = true, timeout = 60 }).stdout:match "^%S+"
    end
    local address = members[1]:state().networks[1].address
    assert.equal(address, resolve(clone, "db"))
    assert.equal(address, resolve(clone, "db.lab"))
    assert.equal("db\n", fetch(clone, address))
    assert.equal("db\n", fetch(members[1], clone:state().networks[1].address))
    assert.is_nil(resolve(members[2], "db"))
    assert.equal("", fetch(members[2], address))
    assert.is_true(clone:state().networks[1].address ~= members[1]:state().networks[1].address)
    clone:stop()
    for _, vm in ipairs(members) do vm:stop() end
    for _, link in ipairs { "fcn0", "fcn1" } do
      assert.is_nil(fcvm.core.disk.read("/sys/class/net/" .. link .. "/ifindex", 16))
    end
  end)

  test("published ports lead into the VM, from where they should and from nowhere else", function()
    -- By curl; after these words, where there are any.
    local function curl(before, address, port)
      local options = { "curl", "-sS", "--max-time", "5", ("http://%s:%d/index.html"):format(address, port), check = false,
        timeout = 20 }
      for i, word in ipairs(before) do table.insert(options, i, word) end
      return fcvm.process.run(options)
    end
    local function fetch(address, port)
      local result = curl({}, address, port)
      return result.status == 0 and result.stdout or nil
    end
    -- Another host: a namespace on a link of its own, which routes to the VMs too.
    local own, far = "10.99.0.1", "10.99.0.2"
    local function ip(...)
      local options = table.pack("ip", ...)
      options.n = nil
      fcvm.process.run(options)
    end
    ip("netns", "add", "elsewhere")
    fcvm.defer(function() ip("netns", "del", "elsewhere") end)
    ip("link", "add", "elsewhere", "type", "veth", "peer", "name", "eth0", "netns", "elsewhere")
    ip("addr", "add", own .. "/24", "dev", "elsewhere")
    ip("link", "set", "elsewhere", "up")
    ip("-n", "elsewhere", "addr", "add", far .. "/24", "dev", "eth0")
    ip("-n", "elsewhere", "link", "set", "eth0", "up")
    ip("-n", "elsewhere", "link", "set", "lo", "up")
    ip("-n", "elsewhere", "route", "add", "default", "via", own)

    local vm = fcvm.run { image = tools, name = "web", mem = "256M", cpu = 1, health = { port = 80 },
      publish = { "127.0.0.1:0:80", "8088:80", own .. ":8089:80", "5300-5301:5300-5301/udp" },
      cmd = { "/bin/sh", "-c", "echo web > /index.html; exec /bin/httpd -f -h / -p 80" } }
    vm:wait("healthy", { timeout = 200 })
    local ports = vm:state().ports
    assert.equal(5, #ports)
    local private = ports[1].host_port
    assert.is_true(private > 0)
    assert.equal("web\n", fetch("127.0.0.1", private))
    assert.equal("web\n", fetch("127.0.0.1", 8088))
    assert.equal("web\n", fetch(own, 8088))
    assert.equal("web\n", fetch(own, 8089))
    assert.is_nil((fetch("127.0.0.1", 8089)))
    assert.is_nil((fetch(own, private)))
    local function elsewhere(address, port)
      return curl({ "ip", "netns", "exec", "elsewhere" }, address, port).stdout
    end
    assert.equal("web\n", elsewhere(own, 8088))
    assert.equal("web\n", elsewhere(own, 8089))
    assert.equal("", elsewhere(own, private))
    assert.equal("", elsewhere("127.0.0.1", private))

    -- UDP, there and back; the image has nothing that answers by it, the guest has perl.
    local udp, heard = uv.new_udp(), nil
    fcvm.spawn(function()
      vm:exec { "/usr/bin/perl", "-MSocket", "-e", "socket(S, PF_INET, SOCK_DGRAM, 17); bind(S, sockaddr_in(5300, INADDR_ANY));"
        .. "while ($a = recv(S, $d, 99, 0)) { send(S, $d, 0, $a) }", vm = true }
    end)
    fcvm.defer(function() udp:close() end)
    udp:bind("0.0.0.0", 0)
    udp:recv_start(function(_, data) heard = heard or data end)
    cli.eventually("an answer by UDP", function()
      udp:send("knock", "127.0.0.1", 5300)
      return heard == "knock"
    end, 20)

    assert.matches("0.0.0.0:8088%->80/tcp", cli.run({ "ls" }).stdout)
    local second = cli.run { "run", "--name", "second", "--mem", "256M", "-p", "8088:80", tools, "/bin/true", timeout = 60 }
    assert.equal(75, second.status)
    assert.matches("8088 is in use by the VM web", second.stderr, 1, true)
    -- The guest is not let through to what this host has on its loopback addresses alone.
    local server = uv.new_tcp()
    fcvm.defer(function() server:close() end)
    server:bind("127.0.0.1", 8077)
    server:listen(1, function() end)
    local host = vm.address:gsub("%d+$", function(last) return ("%d"):format(tonumber(last) - 1) end)
    for _, target in ipairs { "127.0.0.1 8077", host .. " 8077" } do
      assert.not_equal(0, vm:exec({ "/bin/sh", "-c", "nc -w 3 " .. target .. " < /dev/null", timeout = 30 }).status, target)
    end

    uv.kill(vm.pid, 9)
    cli.eventually("its end", function() return not pcall(fcvm.state.find, "web") end, 20)
    assert.equal(0, cli.run({ "sweep" }).status)
    assert.is_nil((fetch("127.0.0.1", private)))
    local again = cli.run { "run", "--name", "web", "--mem", "256M", "-p", "8088:80", tools, "/bin/true", timeout = 100 }
    assert.equal(0, again.status, again.stderr)
  end)

  test("a jailed Firecracker has a user of its own, a root of its own and limits", function()
    local vm = fcvm.run { image = tools, name = "jailed", mem = "256M", cpu = 1, cmd = { "/bin/sleep", "1000" } }
    vm:wait("running", { timeout = 200 })
    local record = vm:state()
    local pid = require("fcvm.stats").firecracker_of(record.pid)
    local file = assert(io.open("/proc/" .. pid .. "/status"))
    local status = file:read "a"
    file:close()
    local uid = require("fcvm.network").of_slot(record.slot).uid
    assert.matches(("Uid:%%s+%d%%s+%d%%s"):format(uid, uid), status)
    assert.matches("NoNewPrivs:%s+1", status)
    assert.matches("Seccomp:%s+2", status)
    assert.matches("CapEff:%s+0+%s", status)
    local paths = require "fcvm.paths"
    assert.equal(uv.fs_stat(paths.vm_root(record.vm_id) .. "/disk.ext4").ino,
      uv.fs_stat("/proc/" .. pid .. "/root/disk.ext4").ino)
    assert.is_nil(uv.fs_stat("/proc/" .. pid .. "/root/proc"))
    for name, value in pairs { ["memory.max"] = (256 + 192) << 20, ["pids.max"] = 64 } do
      local limit = assert(io.open("/sys/fs/cgroup/fcvm/" .. record.vm_id .. "/" .. name))
      assert.equal(value, tonumber(limit:read "l"))
      limit:close()
    end
    vm:stop()
  end)

  test("a recipe gets all output, however slow it reads, and its VM ends with its scope", function()
    local size, id = 0, nil
    task.scope(function()
      local vm <close> = fcvm.run { image = tools, mem = "256M", cpu = 1,
        cmd = { "/bin/sh", "-c", "head -c 3000000 /dev/zero; echo done >&2" },
        on_output = function(stream, data) if stream == "stdout" then size = size + #data end end }
      id = vm.id
      vm:wait "exited"
      assert.equal(0, vm:exit_code())
    end)
    assert.equal(3000000, size)
    assert.same({}, left_of(id))
  end)

  test("a reader that pauses loses nothing", function()
    local run = cli.run { "recipe", "run", cli.top .. "/spec/support/slow_reader.lua", tools }
    assert.equal(0, run.status, run.stderr)
    assert.matches("3000000", run.stdout)
  end)

  test("a detached VM outlives its command, has logs, and is stopped", function()
    local run = cli.run { "run", "-d", "--name", "apart", "--mem", "256M", "--cpu", "1", "--label", "kind=test", tools,
      "/bin/sh", "-c", "echo out; echo err >&2; sleep 1000" }
    assert.equal(0, run.status, run.stderr)
    assert.equal("apart\n", run.stdout)
    cli.eventually("its output", function() return cli.run({ "logs", "apart" }).stdout == "out\n" end, 60)
    assert.equal("err\n", cli.run({ "logs", "apart" }).stderr)
    assert.equal("apart", fcvm.vms({ labels = { kind = "test" } })[1].name)
    assert.equal(0, #fcvm.vms { labels = { kind = "other" } })
    assert.equal(0, cli.run({ "stop", tostring(fcvm.vm("apart").pid) }).status)
  end)

  test("a VM is made again under a name that is free again, without storing its image again", function()
    for _ = 1, 2 do
      local run = cli.run { "run", "--name", "again", "--mem", "256M", "--cpu", "1", tools, "/bin/true" }
      assert.equal(0, run.status, run.stderr)
    end
    local run = cli.run { "run", "--name", "again", "--mem", "256M", "--cpu", "1", tools, "/bin/true" }
    assert.not_matches("stored", run.stderr)
  end)

  describe("bad input:", function()
    local function refused(status, words, options)
      local run = cli.run(options)
      assert.equal(status, run.status, run.stderr)
      assert.matches(words, run.stderr, 1, true)
      assert.equal("", run.stdout)
      assert.not_matches("stack traceback", run.stderr)
    end

    test("images that are missing, foreign or corrupt", function()
      refused(66, "none", { "run", "oci:" .. cli.images .. "/none" })
      refused(65, "arm64", { "run", "oci:" .. cli.images .. "/tools-arm64" })
      refused(65, "digest", { "run", "oci:" .. cli.images .. "/corrupt" })
      refused(69, "127.0.0.1:9", { "run", "127.0.0.1:9/x/y:latest" })
    end)

    test("a file that is not executable is 126", function()
      local run = cli.run { "run", "--mem", "256M", "--cpu", "1", tools, "/etc/passwd" }
      assert.is_true(run.status == 126 or run.status == 127, run.stderr)
    end)

    test("no KVM", function()
      -- The KVM host keeps a machine of its own (tests/kvmhost/keepvm.c), without which the module is free to go.
      fcvm.process.run { "pkill", "-x", "keepvm", check = false, contain = false }
      cli.eventually("KVM to be free", function()
        return fcvm.process.run({ "modprobe", "-r", "kvm_amd", check = false }).status == 0
      end, 30)
      local again = fcvm.defer(function()
        fcvm.process.run { "modprobe", "kvm-amd", "npt=1" }
        fcvm.process.run { "setsid", "-f", "sh", "-c", "exec keepvm > /dev/null 2>&1 < /dev/null", contain = false }
      end)
      refused(80, "preflight", { "run", "--mem", "256M", tools, "/bin/true" })
      again()
    end)

    test("parts that setup makes and that are missing or not what they must be", function()
      local data = uv.fs_mkdtemp "/mnt/fcvm-btrfs/test.XXXXXX"
      fcvm.defer(function() fcvm.process.run { "rm", "-rf", data } end)
      refused(72, "fcvm setup firecracker", { "--data-dir", data, "run", tools, "/bin/true" })
      refused(78, "jailer", { "--data-dir", data, "setup", "firecracker", "--from", "/bin/busybox" })
    end)

    test("a full disk", function()
      local data = uv.fs_mkdtemp "/tmp/fcvm-full.XXXXXX"
      fcvm.process.run { "mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", data }
      fcvm.defer(function()
        fcvm.process.run { "umount", data }
        uv.fs_rmdir(data)
      end)
      for _, part in ipairs { "bin", "kernels", "rootfs" } do
        uv.fs_symlink("/mnt/fcvm-btrfs/" .. part, data .. "/" .. part)
      end
      refused(73, "MiB free", { "--data-dir", data, "run", tools, "/bin/true" })
    end)
  end)

  test("the sanity recipe passes", function()
    local run = cli.run { "test", "sanity", "--image", web }
    assert.equal(0, run.status, run.stderr)
    assert.matches("nothing is left", run.stderr)
  end)
end)
