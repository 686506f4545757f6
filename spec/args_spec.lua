-- SPDX-License-Identifier: Apache-2.0
describe("a recipe's arguments", function()
  local args = require "fcvm.args"

  local function read(argv, spec, options)
    args.argv, args.program = argv, "fcvm test"
    return args.read(spec, options)
  end

  it("are read by type, with their defaults", function()
    local got = read({ "--image", "x", "--mem", "512M" }, { image = "string", count = { "integer", default = 10 }, mem = "size",
      quiet = { "boolean" } })
    assert.equal("x", got.image)
    assert.equal(10, got.count)
    assert.equal(512 << 20, got.mem)
    assert.is_nil(got.quiet)
  end)

  it("are required without a default", function()
    local ok, err = pcall(read, {}, { image = "string" })
    assert.is_false(ok)
    assert.equal(64, err.status)
    assert.matches("image", tostring(err))
  end)

  it("are refused where they have the wrong type or no meaning", function()
    for _, argv in ipairs { { "--count", "x" }, { "--count", "1.5" }, { "--wat" }, { "stray" } } do
      local ok, err = pcall(read, argv, { count = { "integer", default = 1 } })
      assert.is_false(ok)
      assert.equal(64, err.status)
    end
  end)

  it("collect what may come several times", function()
    local got = read({ "-e", "A=1", "--env", "B=2" }, { env = { "string", short = "-e", many = true } })
    assert.same({ "A=1", "B=2" }, got.env)
  end)

  it("are pairs as a table, the last of a name counting", function()
    local spec = { env = { "pairs", short = "-e" }, label = "pairs" }
    assert.same({ A = "1", B = "x=y", C = "" }, read({ "-e", "A=1", "--env", "B=x=y", "-e", "C=" }, spec).env)
    assert.same({ A = "2" }, read({ "-e", "A=1", "-e", "A=2" }, spec).env)
    -- None are nil, as with any option that is left out; they are never required.
    assert.is_nil(read({}, spec).env)
    -- A name alone passes ours on.
    assert.same({ HOME = os.getenv "HOME" }, read({ "-e", "HOME" }, spec).env)
    for _, word in ipairs { "NO_SUCH_VARIABLE_HERE", "=1", "" } do
      local ok, err = pcall(read, { "-e", word }, spec)
      assert.is_false(ok, word)
      assert.equal(64, err.status)
      assert.matches("is not K=V", tostring(err), 1, true)
    end
  end)

  it("leave what stands after the positional ones to the command", function()
    local spec = { image = { "string", positional = 1 }, cmd = { "rest" }, name = { "string", required = false } }
    local got = read({ "--name", "n", "img", "sh", "-c", "exit 3", "--name", "x" }, spec)
    assert.equal("n", got.name)
    assert.equal("img", got.image)
    assert.same({ "sh", "-c", "exit 3", "--name", "x" }, got.cmd)
    assert.same({}, read({ "img" }, spec).cmd)
    assert.same({ "ls" }, read({ "img", "--", "ls" }, spec).cmd)
  end)

  it("must be declared with a type that exists", function()
    local ok, err = pcall(read, {}, { x = "strnig" })
    assert.is_false(ok)
    assert.matches("strnig", tostring(err))
  end)
end)
