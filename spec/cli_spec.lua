-- SPDX-License-Identifier: Apache-2.0
-- The command line where no guest is needed: each bad input is one clear line and a status of its own.
describe("the command line", function()
  local cli = require "spec.support.cli"
  local process = require "fcvm.process"
  local task = require "fcvm.task"
  local uv = require "luv"

  local directory
  before_each(function() directory = uv.fs_mkdtemp "/tmp/fcvm-cli.XXXXXX" end)
  after_each(function() task.main(function() process.run { "rm", "-rf", directory } end) end)

  local function test(name, body) it(name, function() task.main(body) end) end

  local function fcvm(...)
    local options = { "--data-dir", directory, ... }
    options.env, options.timeout = { FCVM_RECIPES = directory .. "/recipes" }, 60
    return cli.run(options)
  end

  local function recipe(name, text)
    uv.fs_mkdir(directory .. "/recipes", 448)
    local path = directory .. "/recipes/" .. name .. ".lua"
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    return path
  end

  for title, case in pairs {
    ["no command"] = { {}, 64, "Usage: fcvm" },
    ["an unknown command, with the nearest one"] = { { "rnu" }, 64, "did you mean 'run'?" },
    ["an unknown option"] = { { "ls", "--wat" }, 64, "--wat" },
    ["an unknown global option"] = { { "--wat" }, 64, "--wat" },
    ["no image"] = { { "run" }, 64, "image" },
    ["too little memory"] = { { "run", "--mem", "64M", "x" }, 64, "128 MiB" },
    ["more memory than the host has"] = { { "run", "--mem", "900T", "x" }, 64, "this host has" },
    ["memory that is no size"] = { { "run", "--mem", "much", "x" }, 64, "512M" },
    ["too many processors"] = { { "run", "--cpu", "33", "x" }, 64, "1 to 32" },
    ["a health check that is no URL"] = { { "run", "--health-check", "localhost", "x" }, 64, "http://" },
    ["a variable without a value"] = { { "run", "-e", "NO_SUCH_VARIABLE", "x" }, 64, "K=V" },
    ["a VM that does not run"] = { { "exec", "nope", "ls" }, 66, "fcvm ls" },
    ["a VM to stop that does not run"] = { { "stop", "nope" }, 66, "nope" },
    ["no VM to stop"] = { { "stop" }, 64, "fcvm ls" },
    ["a recipe that does not exist"] = { { "recipe", "run", "sanitty" }, 66, "did you mean 'sanity'?" },
    ["a recipe's file that does not exist"] = { { "recipe", "run", "./none.lua" }, 66, "no such file" },
    ["a part of setup that does not exist"] = { { "setup", "everything" }, 64, "preflight" },
    ["an option that a part of setup does not take"] = { { "setup", "rootfs", "--unpinned" }, 64, "--unpinned has no meaning" },
    ["an option that setup as a whole does not take"] = { { "setup", "--from", "x" }, 64, "--from has no meaning" },
    ["an unpinned Firecracker from nowhere"] = { { "setup", "firecracker", "--unpinned" }, 64, "--from" },
    ["help for a command that does not exist"] = { { "help", "rnu" }, 64, "did you mean 'run'?" },
    ["an argument that recipe ls does not take"] = { { "recipe", "ls", "x" }, 64, "recipe --help" },
    ["another of podman's commands"] = { { "podman", "pull", "x" }, 64, "podman run" },
    ["a bad log level"] = { { "--log", "loud", "ls" }, 64, "debug" },
  } do
    test("says what is wrong with " .. title, function()
      local result = fcvm(table.unpack(case[1]))
      assert.equal(case[2], result.status, result.stderr)
      assert.matches(case[3], result.stderr, 1, true)
      assert.equal("", result.stdout)
      assert.not_matches("stack traceback", result.stderr)
    end)
  end

  test("has a usage for each command", function()
    for _, command in ipairs { "run", "exec", "ls", "inspect", "logs", "stop", "sweep", "setup" } do
      local result = fcvm(command, "--help")
      assert.equal(0, result.status, command .. result.stderr)
      assert.matches("Usage: fcvm " .. command, result.stdout, 1, true)
    end
    for _, command in ipairs { "podman", "recipe", "repl", "test", "version" } do
      local result = fcvm(command, "--help")
      assert.equal(0, result.status, command .. result.stderr)
      assert.matches("Usage: fcvm " .. command, result.stdout, 1, true)
      assert.equal(result.stdout, fcvm("help", command).stdout)
    end
    assert.matches("Usage: fcvm", fcvm("--help").stdout, 1, true)
    assert.matches("^fcvm %d+%.%d+%.%d+\n$", fcvm("--version").stdout)
    assert.equal(fcvm("version").stdout, fcvm("--version").stdout)
    assert.equal(fcvm("run", "-h").stdout, fcvm("help", "run").stdout)
    assert.equal(fcvm("recipe", "--help").stdout, fcvm("recipe", "ls", "--help").stdout)
  end)

  test("tells a recipe's arguments, a line each", function()
    local path = recipe("tell", [[require("fcvm").args({ image = { "string", "what to run", positional = 1 },
cmd = { "rest", "its command" }, env = { "string", "a variable", short = "-e", many = true, metavar = "K=V" },
data_dir = { "string", "where", required = false }, cpu = { "integer", "how many", default = 2 } },
{ description = "Tells." })]])
    local result = fcvm("recipe", "run", path, "--help")
    assert.equal(0, result.status)
    for _, line in ipairs { "Usage: fcvm recipe run ", "\nTells%.\n", "   IMAGE +what to run\n", "   CMD%.%.%. +its command\n",
      "   %-e, %-%-env K=V +a variable\n", "   %-%-data%-dir DATA%-DIR +where\n", "   %-%-cpu N +how many %(default 2%)\n",
      "   %-%-plot FILE +write a chart" } do
      assert.matches(line, result.stdout)
    end
  end)

  test("lists no VM where there is none, as a table and as JSON", function()
    assert.matches("^NAME", fcvm("ls").stdout)
    assert.same({}, require("fcvm.json").decode(fcvm("ls", "--json").stdout).rows)
  end)

  test("reports a corrupt record and goes on", function()
    uv.fs_mkdir(directory .. "/state", 448)
    local file = assert(io.open(directory .. "/state/vm-0123456789ab.json", "w"))
    file:write "{"
    file:close()
    local result = fcvm "ls"
    assert.equal(0, result.status)
    assert.matches("vm-0123456789ab", result.stderr, 1, true)
    assert.matches("^NAME", result.stdout)
  end)

  test("runs a user's recipe before the built-in one, with its arguments and status", function()
    recipe("ls", "--- Mine.\nprint('mine', ...)\nreturn 7")
    local result = fcvm("ls", "a", "b")
    assert.equal(7, result.status)
    assert.equal("mine\ta\tb\n", result.stdout)
    assert.matches("ls%s+Mine%.", fcvm("recipe", "ls").stdout)
  end)

  test("ends a recipe's scope when it fails, and says why once", function()
    local path = recipe("bad", [[local fcvm = require "fcvm"
fcvm.defer(function() print "cleaned" end)
fcvm.sleep(0.01)
fcvm.errors.raise { op = "try", subject = "it", name = "ETIMEDOUT", message = "no luck", hint = "again" }]])
    local result = fcvm("recipe", "run", path)
    assert.equal(75, result.status)
    assert.equal("cleaned\n", result.stdout)
    assert.equal("error: try it: no luck (again)\n", result.stderr)
  end)

  test("ends a recipe's scope at SIGTERM", function()
    local path = recipe("long", [[local fcvm = require "fcvm"
fcvm.defer(function() io.write "cleaned\n" end)
io.write "ready\n"
io.flush()
fcvm.sleep(100)]])
    local run = cli.start { "recipe", "run", path }
    cli.eventually("the recipe to wait", function() return run.stdout:find "ready" end, 10)
    run:kill(15)
    assert.same({ status = 143 }, run:wait(10))
    cli.eventually("its clean-up", function() return run.stdout:find "cleaned" end, 5)
  end)

  test("runs lines of Lua in the REPL, and no error ends it", function()
    local lines = { "1 + 1", "error('x')", "x = = 1", "for i = 1, 2 do", "print(i)", "end", "fcvm.sleep(0.001)", "{ a = 1 }" }
    local result = cli.run { "repl", stdin = table.concat(lines, "\n") .. "\n" }
    assert.equal(0, result.status)
    assert.equal("2\nrepl:1: x\nline 1: unexpected symbol near '='\n1\n2\n{ a = 1 }\n", result.stdout)
  end)

  test("takes a Firecracker of one's own where --unpinned says so, and not otherwise", function()
    uv.fs_mkdir(directory .. "/own", 448)
    for _, name in ipairs { "firecracker", "jailer" } do
      local file = assert(io.open(directory .. "/own/" .. name, "w"))
      file:write("my own ", name)
      file:close()
    end
    local refused = fcvm("setup", "firecracker", "--from", directory .. "/own")
    assert.equal(78, refused.status, refused.stderr)
    local result = fcvm("setup", "firecracker", "--from", directory .. "/own", "--unpinned", "--json")
    assert.equal(0, result.status, result.stderr)
    local record = require("fcvm.json").decode(result.stdout)
    assert.is_true(record.unpinned)
    local jailer <close> = assert(io.open(directory .. "/bin/jailer"))
    assert.equal("my own jailer", jailer:read "a")
    assert.matches("unpinned %(not pinned%)", fcvm("setup", "preflight", "--only", "setup.firecracker").stdout)
  end)

  test("says which part of setup is missing", function()
    local result = fcvm("run", "oci:" .. directory .. "/none")
    assert.is_true(result.status == 66 or result.status == 72, result.stderr)
    assert.not_matches("stack traceback", result.stderr)
  end)
end)
