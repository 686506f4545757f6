-- SPDX-License-Identifier: Apache-2.0
-- A plain user's network namespaces and their ways out, with real traffic; no VM.
describe("usernet #root", function()
  local cli = require "spec.support.cli"
  local core = require "fcvm.core"
  local plain = require "spec.support.plain_user"
  local process = require "fcvm.process"
  local resources = require "fcvm.resources"
  local task = require "fcvm.task"
  local uv = require "luv"

  -- Makes a namespace as a supervisor does, a server of one line in it (as the guest would be), and the way out; then it says so
  -- and stays.
  local recipe = [[
    local fcvm = require "fcvm"
    local core, errors = fcvm.core, fcvm.errors
    local args = fcvm.args { kind = { "string", "kind", positional = 1 }, busy = { "boolean", "take the port meanwhile" } }
    local home = os.getenv "HOME"
    errors.check(core.proc.userns_enter())
    local namespace = home .. "/ns"
    errors.check(core.net.namespace_create(namespace))
    local inside = errors.check(core.net.open(namespace))
    errors.check(inside:link_set("lo", { up = true }))
    local publish, usernet = require "fcvm.publish", require "fcvm.usernet"
    local ports, release = publish.hold(publish.parse { "127.0.0.1:0:8080", "127.0.0.1:0:53/udp" })
    release()
    local thief
    if args.busy then
      thief = require "luv".new_tcp()
      thief:bind("127.0.0.1", ports[1].host_port)
      thief:listen(1, function() end)
    end
    usernet.start(args.kind, namespace, ports, home)
    local server = errors.check(core.proc.spawn { argv = { "perl", "-MIO::Socket", "-e",
      '$s = IO::Socket::INET->new(LocalPort => 8080, Listen => 9, ReuseAddr => 1) or die; ' ..
      'while ($c = $s->accept) { print $c "from ", $c->peerhost, "\n"; close $c }' }, netns = namespace, session = true })
    fcvm.defer(function() server:close() end)
    local capabilities = io.open("/proc/self/status"):read "a":match "CapEff:%s*(%x+)"
    print(ports[1].host_port, capabilities)
    io.stdout:flush()
    fcvm.sleep(60)
  ]]

  local home

  before_each(function()
    home = assert(uv.fs_mkdtemp "/tmp/fcvm-spec-usernet-XXXXXX")
    for _, dir in ipairs { home, home .. "/run", home .. "/data" } do
      uv.fs_mkdir(dir, 448)
      assert(uv.fs_chown(dir, plain.uid, plain.uid))
    end
    local file = assert(io.open(home .. "/recipe.lua", "w"))
    file:write(recipe)
    file:close()
    uv.fs_chmod(home, 493)
    assert.is_truthy(uv.fs_stat "/dev/net/tun")
  end)

  after_each(function() task.main(function() resources.remove_tree(home) end) end)

  -- Where the device is root's alone (a container may have it so) a plain user has no network to test.
  local function tun_for_all(fn)
    local mode = uv.fs_stat("/dev/net/tun").mode & 511
    uv.fs_chmod("/dev/net/tun", 438)
    local ok, err = pcall(fn)
    uv.fs_chmod("/dev/net/tun", mode)
    if not ok then error(err, 0) end
  end

  local function start(...)
    local reader, writer = assert(core.proc.pipe())
    local bad = home .. "/stderr"
    local log = assert(uv.fs_open(bad, "w", 420))
    local child = assert(core.proc.spawn { argv = plain.words(home, { cli.binary, "recipe", "run", home .. "/recipe.lua", ... }),
      fds = { [1] = writer, [2] = log }, session = true })
    core.proc.close(writer)
    uv.fs_close(log)
    return child, reader, bad
  end

  local function line_of(reader, child, bad)
    local text = ""
    cli.eventually("the user's namespace to be ready", function()
      if task.readable_within(reader, 0.01) then text = text .. core.proc.read_fd(reader, 4096) end
      if text:find "\n" then return true end
      assert(not child:wait(), core.disk.read(bad, 65536))
    end, 30)
    return text
  end

  local function ask(host, port)
    local ok, answer = pcall(process.run, { "perl", "-MIO::Socket", "-e",
      '$s = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1], Timeout => 5) or die "refused\n"; print <$s>',
      host, tostring(port), timeout = 10 })
    return ok and answer.stdout or nil
  end

  local function running(kind)
    local result = process.run { "pgrep", "-f", "^" .. kind .. " .*" .. home .. "/ns", check = false }
    return result.stdout ~= ""
  end

  for _, kind in ipairs { "pasta", "slirp4netns" } do
    it("leads a port of one address into a user's namespace, and ends with its owner: " .. kind, function()
      tun_for_all(function()
        task.main(function()
          local child, reader, bad = start(kind)
          local port, capabilities = line_of(reader, child, bad):match "(%d+)%s+(%x+)"
          assert.is_true(tonumber(capabilities, 16) & (1 << 21) ~= 0) -- its own namespace's alone
          local answer
          cli.eventually("the namespace's server to answer", function()
            answer = ask("127.0.0.1", port)
            return answer and answer ~= ""
          end, 10)
          assert.matches("^from [%d.]+\n$", answer)
          assert.is_nil(ask("127.0.0.2", port))
          assert.is_true(running(kind))
          child:kill(9)
          cli.eventually("it to end with its owner", function() return not running(kind) end, 10)
          child:close()
          core.proc.close(reader)
        end)
      end)
    end)

    it("says who has a port that was taken meanwhile: " .. kind, function()
      tun_for_all(function()
        task.main(function()
          local child, reader, bad = start(kind, "--busy")
          cli.eventually("it to be refused", function() return child:wait() end, 30)
          child:close()
          core.proc.close(reader)
          assert.matches("port %d+ is in use by fcvm %(process %d+%)", core.disk.read(bad, 65536))
          assert.is_false(running(kind))
        end)
      end)
    end)
  end
end)
