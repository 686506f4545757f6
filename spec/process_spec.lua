-- SPDX-License-Identifier: Apache-2.0
describe("process.run", function()
  local process = require "fcvm.process"
  local task = require "fcvm.task"
  local uv = require "luv"

  local function test(name, body) it(name, function() task.main(body) end) end

  test("gives both outputs and the status", function()
    local result = process.run { "sh", "-c", "echo out; echo err >&2; exit 3", check = false }
    assert.same({ 3, "out\n", "err\n" }, { result.status, result.stdout, result.stderr })
  end)

  test("gives the signal that ended a program", function()
    assert.equal(9, process.run({ "sh", "-c", "kill -9 $$", check = false }).signal)
  end)

  test("raises with the program's last words", function()
    local ok, err = pcall(process.run, { "sh", "-c", "echo first >&2; echo why >&2; exit 2" })
    assert.is_false(ok)
    assert.equal("run sh: ended with status 2: first; why", tostring(err))
    assert.equal(2, err.result.status)
  end)

  test("passes stdin on, more than a pipe holds", function()
    local data = ("0123456789abcdef"):rep(1 << 16)
    assert.equal(data, process.run({ "cat", stdin = data }).stdout)
  end)

  test("survives a program that does not read its stdin", function()
    assert.equal(0, process.run({ "true", stdin = ("x"):rep(1 << 20) }).status)
  end)

  test("adds to the environment and takes from it", function()
    assert.equal("1-none\n", process.run({ "sh", "-c", "echo $A-${HOME:-none}", env = { A = 1, HOME = false } }).stdout)
  end)

  test("ends what it started at its time limit, descendants too", function()
    local name = "fcvm-test-" .. uv.hrtime()
    local ok, err = pcall(process.run, { "bash", "-c", "sleep 1000 & exec -a " .. name .. " sleep 1000", timeout = 0.2 })
    assert.is_false(ok)
    assert.equal("ETIMEDOUT", err.name)
    assert.not_equal(0, process.run({ "pgrep", "-f", name, check = false, contain = false }).status)
  end)

  test("bounds what it collects", function()
    local ok, err = pcall(process.run, { "yes", max_output = 100000, timeout = 20 })
    assert.is_false(ok)
    assert.equal("EFBIG", err.name)
  end)

  test("gives chunks to who asks for them", function()
    local size = 0
    local result = process.run { "head", "-c", "300000", "/dev/zero", on_stdout = function(chunk) size = size + #chunk end }
    assert.equal(300000, size)
    assert.equal("", result.stdout)
  end)

  test("names a program that is not there", function()
    local ok, err = pcall(process.run, { "no-such-program" })
    assert.is_false(ok)
    assert.equal("ENOENT", err.name)
    assert.matches("no-such-program", tostring(err), 1, true)
  end)

  test("can be cancelled", function()
    local running = task.spawn(process.run, { "sleep", "1000" })
    task.sleep(0.02)
    running:cancel()
    local ok, err = pcall(running.join, running)
    assert.is_false(ok)
    assert.is_true(err.cancelled)
  end)
end)
